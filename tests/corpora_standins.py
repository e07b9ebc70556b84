"""Small corpora with the directories, names and columns of real ones, and sounds in their formats."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile as sf


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def sound(seed: int, seconds: float = 0.3, form: str = "FLAC", rate: int = 16_000, **more: Any) -> bytes:
    """A sound file of noise; two channels where `channels` is 2."""
    shape = (int(seconds * rate), more.pop("channels", 1))
    buffer = io.BytesIO()
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)
    sf.write(buffer, samples, rate, format=form, **more)
    return buffer.getvalue()


def libritts(root: Path) -> Path:
    for subset, speaker, chapter in (("train-clean-100", "103", "1241"), ("dev-other", "116", "288045")):
        folder = root / "LibriTTS" / subset / speaker / chapter
        for i in range(2):
            stem = f"{speaker}_{chapter}_00000{i}_000000"
            put(folder / f"{stem}.wav", sound(i, form="WAV", rate=24_000))
            put(folder / f"{stem}.normalized.txt", f"mister Cuthbert {i}.\n")
            put(folder / f"{stem}.original.txt", f"Mr. Cuthbert {i}.")
        put(folder / f"{speaker}_{chapter}.trans.tsv", "not read\n")
    put(root / "LibriTTS" / "SPEAKERS.txt", ";ID |SEX|\n")
    return root


def common_voice(root: Path) -> Path:
    home, lengths = root / "en", ["clip\tduration[ms]"]
    for split, clips in (("train", "ab"), ("dev", "c"), ("test", "d")):
        rows = ["client_id\tpath\tsentence_id\tsentence\tup_votes"]
        for clip in clips:
            name = f"common_voice_en_{clip}.mp3"
            put(home / "clips" / name, sound(ord(clip), form="MP3"))
            rows.append(f'voice {clip}\t{name}\tx\tHe said "{clip}, twice.\t2')
            lengths.append(f"{name}\t300")
        put(home / f"{split}.tsv", "\n".join(rows) + "\n")
    put(home / "clips" / "common_voice_en_other.mp3", sound(9, form="MP3"))
    put(home / "validated.tsv", "client_id\tpath\nx\tcommon_voice_en_other.mp3\n")
    put(home / "clip_durations.tsv", "\n".join(lengths) + "\n")
    return root


def vctk(root: Path) -> Path:
    home = root / "VCTK-Corpus-0.92"
    for speaker, lines in (("p225", 2), ("p280", 2), ("p315", 1)):
        for i in range(1, lines + 1):
            for microphone in ("mic1",) if speaker == "p280" else ("mic1", "mic2"):
                name = f"{speaker}_{i:03d}_{microphone}.flac"
                put(home / "wav48_silence_trimmed" / speaker / name, sound(i, rate=48_000))
            if speaker != "p315":
                put(home / "txt" / speaker / f"{speaker}_{i:03d}.txt", f"Please call Stella {i}.\n")
    put(home / "txt" / "p362" / "p362_002.txt", "A sentence that no copy has a sound of.\n")
    put(home / "speaker-info.txt", "ID  AGE  GENDER\n")
    return root


def gigaspeech(root: Path) -> Path:
    audios = []
    for aid, subsets in (("POD1", ["{XL}", "{M}"]), ("YOU2", ["{XL}"]), ("POD3", ["{DEV}"])):
        path = f"audio/podcast/P0000/{aid}.opus"
        put(root / path, sound(len(audios), 2.0, "OGG", subtype="OPUS"))
        segments = [
            {"sid": f"{aid}_S1", "begin_time": 0.25, "end_time": 0.75, "speaker": "N/A", "subsets": subsets,
             "text_tn": "AS THEY'RE LEAVING <COMMA> CAN KASH PULL ZAHRA ASIDE <QUESTIONMARK>"},
            {"sid": f"{aid}_S2", "begin_time": 1, "end_time": 2, "speaker": "N/A", "subsets": subsets,
             "text_tn": "<MUSIC>"},
        ]  # fmt: skip
        audios.append({"aid": aid, "path": path, "subsets": subsets, "title": "N/A", "segments": segments})
    put(root / "GigaSpeech.json", json.dumps({"dataset": "GigaSpeech", "version": "v1.0.0", "audios": audios}))
    return root


def fisher(root: Path) -> Path:
    for call in ("00001", "00002"):
        name = f"fe_03_{call}"
        data = sound(int(call), 3.0, "NIST", 8_000, channels=2, subtype="ULAW")
        put(root / "fe_03_p1_sph1" / "audio" / "000" / f"{name}.sph", data)
        text = (
            f"# {name}.sph\n# Transcribed at the LDC\n\n0.25 1.5 A: hello ((who))\n\n1.25 2.75 B: it is me [laughter]\n"
        )
        put(root / "fe_03_p1_tran" / "data" / "trans" / "000" / f"{name}.txt", text)
        put(root / "fe_03_p1_tran" / "data" / "bbn_orig" / "000" / f"{name}.txt", "another form\n")
    put(root / "fe_03_p1_tran" / "doc" / "readme.txt", "who made this\n")
    rows = ["CALL_ID,DATE,TOPICID,SIG_GRADE,CNV_GRADE,APIN,ASX.DL,APHNUM,APHSET,APHTYP,BPIN,BSX.DL"]
    rows += ["00001,x,ENG01,3,4,2602,f.a,x,2,1,1790,f.a"]
    put(root / "fe_03_p1_tran" / "doc" / "fe_03_p1_calldata.tbl", "\n".join(rows) + "\n")
    return root


def write_arrow(path: Path, table: pa.Table) -> Path:
    """Write a table as datasets does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    return path


def saved_split(home: Path, tables: list[pa.Table], split: str | None = None) -> Path:
    names = [f"data-{i:05d}-of-{len(tables):05d}.arrow" for i in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        write_arrow(home / name, table)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0f", "_split": split}
    put(home / "state.json", json.dumps(state))
    put(home / "dataset_info.json", "{}")
    return home


def saved(root: Path) -> Path:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split, n in (("train", 5), ("test", 1)):
        cells = [{"bytes": sound(i), "path": f"{i}.flac"} for i in range(n)]
        if split == "train":
            cells[4] = {"bytes": None, "path": str(put(root / "elsewhere" / "4.flac", sound(4)).absolute())}
        columns = {
            "audio": pa.array(cells, kind),
            "text": [f"text {i}" for i in range(n)],
            "speaker_id": list(range(n)),
        }
        table = pa.table(columns)
        saved_split(root / split, [table.slice(0, 3), table.slice(3)] if n > 3 else [table], split)
    put(root / "dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
    return root


def audiofolder(root: Path) -> Path:
    for split, names in (("train", "ab"), ("validation", "c")):
        rows = ["file_name,transcription,speaker_id"]
        for name in names:
            put(root / split / "sounds" / f"{name}.wav", sound(ord(name), form="WAV"))
            rows.append(f'sounds/{name}.wav,"well, text {name}",7')
        put(root / split / "metadata.csv", "\ufeff" + "\n".join(rows) + "\n")
    return root


def classes(root: Path) -> Path:
    for place in ("train/cat/1.wav", "train/dog/1.wav", "test/dog/evaluation.wav"):
        put(root / place, sound(len(place), form="WAV"))
    return root


def table(root: Path) -> Path:
    for i in range(3):
        put(root / "wavs" / f"{i}.wav", sound(i, 2.0, "WAV"))
    rows = ["Wav;Start;End;Sentence;Voice;split"]
    rows += [f'wavs/{i}.wav;0.5;1.25;"one; ""two"" {i}";v{i};{"dev" if i == 2 else "train"}' for i in range(3)]
    put(root / "list.csv", "\r\n".join(rows) + "\r\n")
    return root
