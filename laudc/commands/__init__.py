"""One command a file: `COMMAND` is a click command, and the file's name is the command's.

`laudc --help` imports every file here, so what is heavy (torch, tvm, rich) is imported inside the function.
"""
