"""Facts about this process that are known before torch is imported."""

is_command_line = False  # whether it runs ``vaekit``, whose users cannot call torch.set_num_threads
