"""What another copy attests, looked at first and then applied to this journal."""
