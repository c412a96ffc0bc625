"""Machines that a command is about: this one, others by SSH, guests of labs, those of an Ansible inventory."""
