"""What every test of this folder is watched for."""

from blocking import _no_blocking_calls as _no_blocking_calls  # a fixture for every test of this folder
