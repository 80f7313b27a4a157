"""Images: packaged data sets, directories and .npz files."""
