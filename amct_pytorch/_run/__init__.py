"""Running a user's model, and work around it: isolation, devices, progress, threads, processes."""
