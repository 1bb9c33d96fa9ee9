"""xllamacpp's own server as a program: python llama_server.py GGUF PORT NAME."""

import sys
import time

import xllamacpp

if __name__ == "__main__":
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames = ["127.0.0.1"]
    params.port = int(sys.argv[2])
    params.model_alias = [sys.argv[3]]
    params.n_ctx, params.n_parallel = 2048, 4
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    while server:
        time.sleep(60)
