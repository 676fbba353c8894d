// Prints what Go's own resolver says of each name: the error, or every address, sorted by the caller.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

func main() {
	resolver := &net.Resolver{PreferGo: true}
	for _, name := range os.Args[1:] {
		addresses, err := resolver.LookupHost(context.Background(), name)
		var failure *net.DNSError
		switch {
		case errors.As(err, &failure) && failure.IsNotFound:
			fmt.Println(name, "unknown")
		case err != nil:
			fmt.Println(name, err)
		}
		for _, address := range addresses {
			fmt.Println(name, address)
		}
	}
}
