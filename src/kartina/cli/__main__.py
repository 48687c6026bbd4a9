from kartina.cli import main

main()
