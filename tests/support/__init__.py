"""What tests of several rooms share: checkpoints, bundles, commands, places."""
