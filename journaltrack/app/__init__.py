"""The wiring: the one place where trackers, passes, watchers and remotes meet."""
