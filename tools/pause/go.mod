// The pod sandbox's first process.
module kaito-py/tools/pause

go 1.25.0
