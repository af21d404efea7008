// Command probe answers and asks over HTTP from inside a pod.
//
//	probe serve ADDRESS TEXT   answers every request with TEXT and the caller's address
//	probe get URL              prints the answer; waits up to 20 s for one, because a Service needs a moment
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	switch {
	case len(os.Args) == 4 && os.Args[1] == "serve":
		serve(os.Args[2], os.Args[3])
	case len(os.Args) == 3 && os.Args[1] == "get":
		get(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: probe serve ADDRESS TEXT | probe get URL")
		os.Exit(64)
	}
}

func serve(address, text string) {
	http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
		fmt.Fprintf(response, "%s to %s\n", text, request.RemoteAddr)
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(address, nil))
	os.Exit(1)
}

func get(url string) {
	client := http.Client{Timeout: 3 * time.Second}
	var last error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		response, err := client.Get(url)
		if err != nil {
			last = err
			continue
		}
		defer response.Body.Close()
		io.Copy(os.Stdout, response.Body)
		return
	}
	fmt.Fprintln(os.Stderr, last)
	os.Exit(1)
}
