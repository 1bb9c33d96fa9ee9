"""xllamacpp's own HTTP server on a GGUF: FILE [PORT STREAMS [CONTEXT]]; prints {"port"}, ends with its stdin.

CONTEXT is shared by the streams.
"""

from __future__ import annotations

import json
import os
import sys

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
port, streams, context = [*map(int, sys.argv[2:]), *(0, 8, 1024 * 8)[len(sys.argv) - 2 :]]
params.n_ctx, params.n_parallel = context, streams
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 2
params.cache_prompt = False
out = os.dup(1)
os.dup2(2, 1)  # llama.cpp prints on stdout
if port:
    params.port = port
server = xllamacpp.Server(params)
os.write(out, json.dumps({"port": int(server.listening_address.rsplit(":", 1)[1])}).encode() + b"\n")
sys.stdin.read()
