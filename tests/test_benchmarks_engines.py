"""Speech engines: commands run without a shell, missing programs and voices are named, phones are said as given."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from suite_standins import wav
from twistlm.benchmarks.engines import Command, Espeak, Flite, PhoneVoice, espeak_mnemonics, label, open_voices
from twistlm.errors import ArtifactError, BadInput

flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture
def parrot(tmp_path):
    """A program that keeps what it was told to say and writes a sound."""
    wav(tmp_path / "sound.wav", 1, rate=22_050)
    script = tmp_path / "my tts"
    script.write_text(f'#!/bin/sh\nprintf "%s|" "$@" > "{tmp_path}/said"\ncp "{tmp_path}/sound.wav" "$3"\n')
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("text", ['it\'s "here"; touch gone $(touch gone) {voice} *', "--help", "é\nnext line"])
def test_a_command_gets_the_text_as_it_is(parrot, tmp_path, text):
    voice = Command(f"'{parrot}' {{voice}} {{text}} {{wav}}", "ann")
    clip = voice.speak(text)
    assert clip.sample_rate == 22_050 and len(clip.samples) == 4410
    assert (tmp_path / "said").read_text().startswith(f"ann|{text}|")
    with pytest.raises(BadInput, match="does not take phones"):
        voice.speak_phones(["ay1"])
    phones = Command(f"'{parrot}' {{voice}} {{phones}} {{wav}}", "ann")
    phones.speak_phones(["b", "ay1"])
    assert (tmp_path / "said").read_text().startswith("ann|b ay1|")
    with pytest.raises(BadInput, match="phones only"):
        phones.speak("buy")


@pytest.mark.parametrize(
    ("name", "call"),
    [("kokoro:af_heart", "--voice af_heart --output-file"), ("piper:{folder}/v.onnx", "--model {folder}/v.onnx")],
)
def test_neural_engines_are_programs_that_read_one_line(tmp_path, monkeypatch, name, call):
    """Stand-ins for the two programs, which need models that no package brings."""
    wav(tmp_path / "sound.wav", 1, rate=24_000)
    (tmp_path / "v.onnx").write_bytes(b"model")
    script = tmp_path / name.partition(":")[0]
    keep = f'echo "$@" > "{tmp_path}/call"; cat > "{tmp_path}/said"; cp "{tmp_path}/sound.wav" "$4"'
    script.write_text(f"#!/bin/sh\n{keep}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (voice,) = open_voices([name.format(folder=tmp_path)])
    assert voice.speak('--it\'s\n "here"').sample_rate == 24_000
    assert (tmp_path / "call").read_text().startswith(call.format(folder=tmp_path))
    assert "--it's" in (tmp_path / "said").read_text() and not isinstance(voice, PhoneVoice)
    assert label(voice) in ("kokoro-af_heart", "piper-v")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("mytts {text}", "needs {wav}"),
        ("mytts {wav}", "one of {text} and {phones}"),
        ("mytts {text} {phones} {wav}", "one of"),
        ("mytts {text} {wav} {speed}", "unknown fields speed"),
        ("mytts {text {wav}", "no template"),
        ("mytts {text:d} {voice!r} {wav}", "without a format: text: d, voice: r"),
    ],
)
def test_templates_that_cannot_work(template, said):
    with pytest.raises(BadInput, match=said):
        open_voices(["a"], command=template)


def test_programs_that_fail_or_are_missing(tmp_path, monkeypatch):
    with pytest.raises(ArtifactError, match="no-such-tts"):
        Command("no-such-tts {text} {wav}", "a").speak("hi")
    with pytest.raises(ArtifactError, match="failed with code 1"):
        Command("false {text} {wav}", "a").speak("hi")
    with pytest.raises(ArtifactError, match="wrote no sound file"):
        Command("true {text} {wav}", "a").speak("hi")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, package in (("flite:slt", "apt install flite"), ("espeak-ng:en", "espeak-ng"), ("piper:x.onnx", "piper")):
        with pytest.raises(ArtifactError, match=package):
            open_voices([name])


def test_names_of_voices():
    for bad in ("slt", "flite:", "nosuch:x", ""):
        with pytest.raises(BadInput, match="ENGINE:VOICE"):
            open_voices([bad])
    with pytest.raises(BadInput, match="doubled"):
        open_voices(["a b", "a-b"], command="mytts {text} {wav}")
    with pytest.raises(BadInput, match="at least one voice"):
        open_voices([])
    assert label(Command("t {text} {wav}", "../a/b")) == "-a-b"


def test_espeak_mnemonics():
    assert espeak_mnemonics(["b", "ay1", "t", "er0", "ch", "iy0", "ax0"]) == "b|'aI|t|3|tS|i|@"
    with pytest.raises(BadInput, match="not phones of CMUdict: qq"):
        espeak_mnemonics(["qq"])


@flite
def test_flite_says_phones_and_refuses_unknown_voices():
    voice = Flite("slt")
    assert isinstance(voice, PhoneVoice)
    short, long = voice.speak_phones(["b", "ay1"]), voice.speak_phones(["b", "r", "ay1", "t", "n", "ax0", "s"])
    assert len(long.samples) > len(short.samples) and "slt" in voice.identity
    with pytest.raises(ArtifactError):
        voice.speak_phones(["nosuchphone"])
    with pytest.raises(BadInput, match=r"no voice 'nobody'; it has .*slt"):
        open_voices(["flite:nobody"])


@espeak
def test_espeak_reads_phones_like_the_word():
    voice = Espeak("en-us")
    word, phones = voice.speak("banana"), voice.speak_phones(["b", "ax0", "n", "ae1", "n", "ax0"])
    assert abs(word.seconds - phones.seconds) < 0.1 and np.abs(phones.samples).max() > 0.05
    with pytest.raises(ArtifactError, match="does not exist"):
        Espeak("zz-nowhere").speak("hi")


@espeak
@pytest.mark.parametrize("voice", ["en-us+nosuch", "en-us+f33", "en-nosuch", "+f3", "en-us+F3", "en-us+male2"])
def test_a_voice_that_espeak_does_not_have_is_refused(voice):
    """espeak-ng itself speaks with its plain voice and says nothing about it."""
    with pytest.raises(BadInput, match=r"espeak-ng has no (accent|variant)"):
        open_voices([f"espeak-ng:{voice}"])[0].identity  # noqa: B018


@espeak
@pytest.mark.parametrize(
    "voice", ["en", "EN-US+Andrea", "en-gb-scotland+f3", "en-us+Mr serious", "en-us+3", "English (America)"]
)
def test_a_voice_that_espeak_has_may_be_said_by_each_of_its_names(voice):
    assert open_voices([f"espeak-ng:{voice}"])[0].identity.endswith(voice)
