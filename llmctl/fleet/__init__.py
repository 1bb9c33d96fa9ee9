"""Other hosts: reached by ssh, asked for their facts, deployed to; all that runs there answers with one envelope."""
