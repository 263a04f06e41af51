"""The choices of a researcher, one folder per choice; installed as persona_lab.conf."""
