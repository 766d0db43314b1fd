"""Running a user's model: inputs, isolation, hooks, devices, progress, threads, processes."""
