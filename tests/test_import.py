"""`import twistlm` stays light, and its public names are what they say."""

from __future__ import annotations

import subprocess
import sys

import pytest

import twistlm

HEAVY = ("torch", "transformers", "pyarrow", "sklearn", "scipy", "rich", "soundfile", "numpy", "jiwer")


@pytest.mark.parametrize("code", ["import twistlm", "from twistlm.cli import command, main, data, models, study"])
def test_nothing_heavy_is_imported(code):
    script = f"import sys\n{code}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom twistlm.cli.main import main\nsys.argv = ['twist', 'quickstart', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        f"    print('END', end.code, *(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout and done.stdout.rstrip().endswith("END 0")


def test_looking_at_a_path_and_refusing_one_import_no_torch(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    script = (
        "import sys\nfrom twistlm.cli.main import main\nfrom twistlm.jobs.inspecting import describe\n"
        "folder, out = sys.argv[1], ['--out', 'x']\nprint(describe(folder)['kind'])\n"
        "for words in (['train', folder, *out], ['eval', folder], ['generate', folder, 'a.wav', *out]):\n"
        "    sys.argv = ['twist', *words]\n"
        "    try:\n        main()\n    except SystemExit as end:\n        print(end.code)\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["text", "LM", "2", "2", "2", "False", "False"]
    said = " ".join(done.stderr.split())  # paragraphs are wrapped where the folder's name says
    assert "no unit shards" in said and said.count("is not a trained model") == 2


@pytest.mark.parametrize("name", twistlm.__all__)
def test_public_names_are_real_and_documented(name):
    thing = getattr(twistlm, name)
    assert thing.__doc__
    assert name in dir(twistlm)


def test_a_verb_stays_a_verb_when_the_room_of_its_name_is_imported():
    script = (
        "import sys, types\nloop = sys.modules['twistlm.train.loop'] = types.ModuleType('twistlm.train.loop')\n"
        "loop.train = object()\n"  # the true one imports torch and transformers, for seconds
        "import twistlm.train.loop, twistlm; assert twistlm.train is loop.train"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'tokenise'"):
        twistlm.tokenise  # noqa: B018
