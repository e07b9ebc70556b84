"""Asks vLLM, for `exported_models.py`, which runs this with a Python that has it; the export is on its path."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}

from vllm import LLM, SamplingParams


def main(home: Path) -> None:
    asked = json.loads((home / "asked.json").read_text())
    tokens, size, made = asked["tokens"], asked["size"], asked["made"]
    prompts = [{"prompt_token_ids": tokens[: at + 1]} for at in asked["places"]]
    every = [{"prompt_token_ids": tokens[: i + 1]} for i in range(len(tokens))]
    greedy = SamplingParams(temperature=0, max_tokens=made, detokenize=False, ignore_eos=True)
    one = SamplingParams(temperature=1, max_tokens=1, detokenize=False, logprobs=size, ignore_eos=True)
    told = {}
    for kind, processors in (("free", None), ("ruled", ["no_repeat:NoRepeat"])):
        llm = LLM(
            model=str(home / "out"), skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=2_048,
            max_num_seqs=4, max_logprobs=size, logits_processors=processors,
            logprobs_mode="processed_logprobs" if processors else "raw_logprobs",
        )  # fmt: skip
        told[kind] = [list(out.outputs[0].token_ids) for out in llm.generate(prompts, greedy)]
        found = [out.outputs[0].logprobs[0] for out in llm.generate(every, one)]
        if processors:
            told["allowed"] = [sorted(i for i in place if place[i].logprob > float("-inf")) for place in found]
        else:
            told["log_probs"] = [[place[token].logprob for token in range(size)] for place in found]
        del llm
    (home / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
