"""Every reader of what strangers send, as a target for fuzzers: hypothesis in the suite, atheris by `make fuzz`."""
