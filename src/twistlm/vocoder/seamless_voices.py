"""Languages and speakers of Seamless's vocoders, which their weights do not name (facts of its asset cards).

A language's row is the place of its code in the alphabet. Each lists its speakers' rows, its usual one first; no other
row was trained.
"""

from __future__ import annotations

from twistlm.vocoder.voices import Voices

_V1 = """arb 0; ben 2 1; cat 3; ces 4; cmn 5; cym 6; dan 7 8; deu 9; eng 10; est 11 12 13; fin 14; fra 15; hin 16;
ind 17 24 18 20 19 21 23 27 26 22 25; ita 29 28; jpn 30; kor 31; mlt 32 33 34; nld 35; pes 36; pol 37; por 38; ron 39;
rus 40; slk 41; spa 42; swe 43 45 44; swh 46 48 47; tel 49; tgl 50; tha 51 54 55 52 53; tur 58 57 56; ukr 59;
urd 60 61 62; uzn 63 64 65; vie 66 67 70 71 68 69"""
_V2 = """arb 0; ben 1; cat 2; ces 3; cmn 4 5; cym 6; dan 7 8; deu 9; eng 10; est 11 12 13; fin 14; fra 15; hin 16;
ind 17 24 18 20 19 21 23 27 26 22 25; ita 29 28; jpn 30; kor 31; mlt 32 33 34; nld 35 37 36; pes 38; pol 39; por 40;
ron 41; rus 43 42; slk 44; spa 45; swe 46 48 47; swh 49 51 50; tel 52; tgl 53; tha 54 57 58 55 56; tur 61 60 59; ukr 62;
urd 63 64 65; uzn 66 67 68; vie 69 70 73 74 71 72"""


def _voices(text: str) -> Voices:
    of_language = {(words := part.split())[0]: tuple(words[1:]) for part in text.split(";")}
    speakers = sorted((name for names in of_language.values() for name in names), key=int)
    return Voices(
        languages={name: row for row, name in enumerate(sorted(of_language))},
        speakers={name: int(name) for name in speakers},
        of_language=of_language,
    )


SEAMLESS = {"seamless-m4t-v1": _voices(_V1), "seamless-m4t-v2": _voices(_V2)}
