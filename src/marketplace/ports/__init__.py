"""What an invocation is given: its Env, and the stores and queues behind it as protocols."""
