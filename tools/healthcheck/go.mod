// What a container without a shell or curl runs to say that it is healthy.
module kaito-py/tools/healthcheck

go 1.25.0
