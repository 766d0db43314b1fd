"""Running a user's model, and work around it: inputs, isolation, hooks, devices, progress, threads, processes."""
