"""`python -m twistlm` is `twist`: what torchrun starts (`torchrun -m twistlm train …`)."""

from twistlm.cli.main import main

main()
