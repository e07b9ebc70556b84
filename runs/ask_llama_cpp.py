"""Asks llama.cpp's server, for `exported_models.py`, which runs this with a Python that has xllamacpp."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import xllamacpp


def main(home: Path) -> None:
    asked = json.loads((home / "asked.json").read_text())
    rules = json.loads((home / "out" / "request.json").read_text())
    settings = xllamacpp.CommonParams()
    settings.model.path = str(home / "out" / "model.gguf")
    settings.n_ctx, settings.n_parallel, settings.warmup = 2_048, 1, False
    settings.cpuparams.n_threads = 2
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(settings)

    def ask(tokens: list[int], n: int, **more: Any) -> dict[str, Any]:
        body = json.dumps({"prompt": tokens, "n_predict": n, "return_tokens": True, "cache_prompt": True, **more})
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{server.listening_address}/completion", body.encode(), headers)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    tokens, size, made = asked["tokens"], asked["size"], asked["made"]
    log_probs = []
    for i in range(len(tokens)):
        told = ask(tokens[: i + 1], 1, n_probs=size, samplers=[])["completion_probabilities"][0]["top_logprobs"]
        found = {one["id"]: one["logprob"] for one in told}
        log_probs.append([found[token] for token in range(size)])
    allowed = []
    for i in range(len(tokens)):
        told = ask(tokens[: i + 1], 1, n_probs=size, post_sampling_probs=True, temperature=1, **rules)
        after = told["completion_probabilities"][0]["top_probs"]
        allowed.append(sorted(one["id"] for one in after if one["prob"] > 0))
    free = [ask(tokens[: at + 1], made, temperature=0, ignore_eos=True)["tokens"] for at in asked["places"]]
    ruled = [ask(tokens[: at + 1], made, temperature=0, **rules)["tokens"] for at in asked["places"]]
    (home / "told.json").write_text(
        json.dumps({"log_probs": log_probs, "allowed": allowed, "free": free, "ruled": ruled})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
