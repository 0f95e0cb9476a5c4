"""The --task flag, in a module of its own because a flag can be defined only once per process."""

from absl import flags

TASK = flags.DEFINE_enum("task", "sinusoid", ["sinusoid", "omniglot"], "family of tasks")
