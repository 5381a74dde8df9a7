"""Wire trackers, passes, watchers and remotes together; only this package does."""
