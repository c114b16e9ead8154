"""What is kept on the disk and survives interruptions: files, checkpoints, journals."""
