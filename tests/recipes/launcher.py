"""Starts scripts by forking a process that has imported torch and its friends already, which takes seconds otherwise.

Reads requests as lines of JSON: a script to start, answered by its process id, or a process to wait for, answered by
its exit code. Apart from the imports a child is a script like any other: own `__main__`, arguments, folder, output.
"""

import atexit
import gc
import json
import os
import resource
import runpy
import sys
import traceback

import accelerate
import docstring_parser
import jsonargparse
import safetensors.torch
import sklearn.datasets
import torch._dynamo
import tqdm.auto
import yaml

import ltaug
import ltaug.report
import ltaug.training
import ltaug.vision

IMPORTED = (accelerate, docstring_parser, jsonargparse, ltaug, safetensors, sklearn, torch, tqdm, yaml)


def serve() -> dict:
    """Answer requests; only the children return, each with its own."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif (answer := os.fork()) == 0:
            return request
        print(json.dumps(answer), flush=True)
    sys.exit()


if __name__ == "__main__":
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    wanted = serve()
    for number, path in enumerate((os.devnull, wanted["out"], wanted["err"])):
        handle = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if number else 0), 0o600)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(wanted["cwd"])
    os.environ.update(wanted["env"])
    if wanted["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (wanted["largest_file"],) * 2)
    sys.argv = wanted["argv"]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to take the modules apart one by one, pages shared with the parent until then, is slow
