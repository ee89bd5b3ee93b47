"""The operators' console tool: ``python -m cli --help``.

It calls the HTTP interface of a running marketplace and knows nothing of the Worker's code. It
stands outside ``src/``, since everything in there is deployed.
"""
