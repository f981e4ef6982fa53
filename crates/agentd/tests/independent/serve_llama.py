"""Serves a GGUF file with llama.cpp until standard input ends; prints its base URL first.

    serve_llama.py MODEL.gguf
"""

import sys

import xllamacpp

# As long as the model was trained for.
WINDOW = 8192

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.port = 0
params.n_ctx = WINDOW
params.n_parallel = 1
params.use_jinja = True
params.warmup = False
# Threads of one computation wait for each other in a loop, for long where other programs have the machine.
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
# The likeliest word each time: the same answer in every run.
params.sampling.temp = 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
