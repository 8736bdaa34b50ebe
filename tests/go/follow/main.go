// Reads a stream as a user of github.com/r3labs/sse would, or with a plain bufio.Scanner, and prints each
// frame as a line. Called by tests/npm/clients.mjs; docs/clients.md has its text.
//
//	follow r3labs|scanner <address of the stream> <address of a token>
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/r3labs/sse/v2"
	"gopkg.in/cenkalti/backoff.v1"
)

func main() {
	address := os.Args[2]
	token := func() string {
		answer, err := http.Get(os.Args[3])
		if err != nil {
			return ""
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return string(text)
	}
	switch os.Args[1] {
	case "r3labs":
		r3labs(address, token, handle)
	case "scanner":
		scanner(address, token, handle)
	}
}

func handle(frame []byte) {
	var line bytes.Buffer
	if json.Compact(&line, frame) == nil {
		fmt.Println(line.String())
	}
}

// snippet: r3labs
func r3labs(address string, token func() string, handle func(frame []byte)) {
	// The buffer holds a whole frame; its default is 64 KiB. An event of limits.event_bytes has to fit.
	client := sse.NewClient(address, sse.ClientMaxBufferSize(1<<20))
	renew := func() { client.Headers["Authorization"] = "Bearer " + token() }
	client.ReconnectNotify = func(error, time.Duration) { renew() } // before each attempt of its own
	// By default it gives up at the first cut that comes later than 15 minutes after Subscribe.
	retries := backoff.NewExponentialBackOff()
	retries.MaxElapsedTime = 0
	client.ReconnectStrategy = retries
	var cursor []byte
	for {
		renew()
		// It returns at each clean end of the stream, without an error.
		err := client.SubscribeRaw(func(msg *sse.Event) {
			// At a cut it hands over the part of a frame that has come, and takes the id from it.
			if !json.Valid(msg.Data) || (len(msg.ID) > 0 && bytes.Count(msg.ID, []byte("-")) != 2) {
				client.LastEventID.Store(cursor)
				return
			}
			handle(msg.Data)
			cursor = msg.ID
			retries.Reset() // or its delays only grow
		})
		fmt.Fprintln(os.Stderr, "the stream has ended:", err)
		time.Sleep(3 * time.Second)
	}
}

// end

// scanner reads lines with Go's default buffer: they have to be shorter than 64 KiB.
func scanner(address string, token func() string, handle func(frame []byte)) {
	cursor := ""
	for {
		request, _ := http.NewRequest("GET", address, nil)
		request.Header.Set("Authorization", "Bearer "+token())
		request.Header.Set("Accept", "text/event-stream")
		request.Header.Set("Last-Event-ID", cursor)
		if answer, err := http.DefaultClient.Do(request); err == nil {
			if answer.StatusCode == 200 {
				lines := bufio.NewScanner(answer.Body)
				var data []string
				id := cursor
				for lines.Scan() {
					field, value, _ := strings.Cut(lines.Text(), ":")
					value = strings.TrimPrefix(value, " ")
					switch field {
					case "data":
						data = append(data, value)
					case "id":
						id = value
					case "":
						if data != nil {
							handle([]byte(strings.Join(data, "\n")))
						}
						data, cursor = nil, id
					}
				}
				if lines.Err() == bufio.ErrTooLong {
					fmt.Fprintln(os.Stderr, "a line is too long for a bufio.Scanner")
					os.Exit(1)
				}
			}
			answer.Body.Close()
		}
		time.Sleep(time.Second)
	}
}
