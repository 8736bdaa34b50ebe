// What the token endpoint of README.md needs in Go. Nothing here ships.
module tidegate/tests

go 1.18

require github.com/golang-jwt/jwt/v5 v5.2.3
