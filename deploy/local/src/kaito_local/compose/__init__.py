"""The integration tests' surroundings as containers: docker-compose.test.yaml with everything that it needs made and removed.

Images are made here (no image registry is asked), certificates and passwords are new at each run, and the tests find the
containers through the file that $KAITO_TEST_STACK names.
"""
