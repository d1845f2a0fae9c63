"""What a loss module must keep so that people can drop it in; read by `losssearch.testing`."""
