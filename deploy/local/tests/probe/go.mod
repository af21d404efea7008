// The program that the cluster tests run in pods.
module kaito-py/deploy/local/tests/probe

go 1.25.0
