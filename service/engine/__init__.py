"""The engine as a process of its own, behind HTTP workers that are processes as well."""
