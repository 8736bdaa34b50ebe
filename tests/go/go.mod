// What Tidegate's tests take from Go's proxy: for the token endpoint of README.md, and for follow/. Nothing here
// ships.
module tidegate/tests

go 1.18

require (
	github.com/golang-jwt/jwt/v5 v5.2.3
	github.com/r3labs/sse/v2 v2.10.0
	gopkg.in/cenkalti/backoff.v1 v1.1.0
)

require golang.org/x/net v0.0.0-20191116160921-f9c825593386 // indirect
