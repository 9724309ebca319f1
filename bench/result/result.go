// Package result is what one run of the bench leaves behind: one JSON file that holds every measured cell, the
// machine it was measured on and the command that repeats it. The bench writes it, the report reads it; nothing in the
// report is typed in by hand, so whatever a figure needs has to be here.
package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Run is one run of the bench.
type Run struct {
	Name     string    `json:"name"`
	Started  time.Time `json:"started"`
	Command  string    `json:"command"` // what repeats it
	Machine  Machine   `json:"machine"`
	Versions Versions  `json:"versions"`
	Rows     []Row     `json:"rows"`
	Notes    []string  `json:"notes"` // what a reader has to know: targets that are not here, what was warmed
}

// Machine is what everything shared while it was measured.
type Machine struct {
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	RAMBytes int64  `json:"ram_bytes"`
	Kernel   string `json:"kernel"`
}

// Versions are of what was measured. A part that is not installed has "".
type Versions struct {
	Go         string `json:"go"`
	Redis      string `json:"redis"`
	Postgres   string `json:"postgres"`
	Nginx      string `json:"nginx"`
	Creditgate string `json:"creditgate"` // commit
}

// Bodies of Row.Body.
const (
	BodyJSON  = "json"
	BodyImage = "image"
)

// Phases of Row.Phase, in the suite that lets everybody's month end.
const (
	PhaseBefore   = "before"   // the new month
	PhaseMidnight = "midnight" // the seconds around it
	PhaseRenewing = "renewing" // until everything is issued and has lapsed
	PhaseAfter    = "after"    // it all
)

// Row is one measured cell of one round. Parameters that a suite does not vary have the value they had, not zero, so
// that rows of different suites can be compared. Figures that a target does not have are zero or absent.
type Row struct {
	Suite  string `json:"suite"`
	Phase  string `json:"phase,omitempty"` // of a suite that goes through several
	Target string `json:"target"`
	Round  int    `json:"round"` // from 1

	Clients    int     `json:"clients"`         // connections
	Rate       float64 `json:"rate,omitempty"`  // intended requests per second of an open loop; 0: closed loop
	Share      float64 `json:"share,omitempty"` // of the target's capacity that Rate is, where it was chosen so
	Accounts   int     `json:"accounts"`
	Grants     int     `json:"grants"` // live grants of each account
	Partitions int     `json:"partitions"`
	Gateways   int     `json:"gateways"`
	Masters    int     `json:"masters"`
	Body       string  `json:"body"`
	BackendMS  float64 `json:"backend_ms"` // delay of the backend

	Requests int64            `json:"requests"` // finished in the measured time, whatever the status
	Errors   map[string]int64 `json:"errors,omitempty"`
	Seconds  float64          `json:"seconds"`
	Latency  Latency          `json:"latency_us"`

	CPU      map[string]float64 `json:"cpu_us_per_req,omitempty"` // by process: client, backend, gateway, redis, postgres, …
	Redis    Redis              `json:"redis"`
	Cluster  []Master           `json:"cluster,omitempty"` // the masters of a Redis Cluster
	Postgres Postgres           `json:"postgres"`
	Heap     Heap               `json:"heap"`
	Backlog  Backlog            `json:"backlog"`
	Extra    map[string]float64 `json:"extra,omitempty"`  // what one suite alone measures, by the names below
	Series   []Point            `json:"series,omitempty"` // backlog while the cell ran
}

// Names in Row.Extra.
const (
	ExtraActive      = "active_accounts"    // accounts that were asked for, where they are not all
	ExtraKeyLookups  = "key_lookups"        // API keys looked up in Postgres, per request
	ExtraSlope       = "backlog_per_second" // records by which the backlog grew over the second half of the cell
	ExtraRecords     = "records_per_second" // ledger records made: ExtraSlope is a part of these, not of the requests
	ExtraLag         = "lag_seconds_max"    // age of the oldest record that Postgres had not
	ExtraAccountSize = "bytes_per_account"  // of Redis memory, idle, with the row's grants
	ExtraHoldSize    = "bytes_per_hold"     // of Redis memory
	ExtraHolds       = "holds"              // that ExtraHoldSize was measured with
	ExtraLoadSeconds = "load_seconds"       // for all accounts into an empty Redis
	ExtraUnit        = "nanoseconds"        // of Redis' CPU

	ExtraIssued         = "issued_seconds"                   // after midnight, until all next grants were recorded in Postgres
	ExtraApplied        = "applied_seconds"                  // … until Redis had them, and Postgres knew
	ExtraLapsed         = "lapsed_seconds"                   // … until all grants that ended at midnight had lapsed in Redis
	ExtraBooked         = "booked_seconds"                   // … until Postgres had these lapses
	ExtraResident       = "gateway_resident_bytes"           // before midnight
	ExtraResidentPeak   = "gateway_resident_peak"            // the most since the gateway started
	ExtraLedgerRenewed  = "ledger_bytes_per_account_renewed" // … of it the ledger, of which Redis keeps some minutes
	ExtraAccountRenewed = "bytes_per_account_renewed"        // ExtraAccountSize when everything was renewed
)

// Units of the suite that measures single things: the Target of its rows.
const (
	UnitEval   = "EVAL of nothing, 64 on their way"
	UnitTime   = "TIME"
	UnitGet    = "GET"
	UnitSet    = "SET"
	UnitHGet   = "HGET"
	UnitHMGet  = "HMGET of 3 fields"
	UnitHSet   = "HSET of 2 fields"
	UnitUnpack = "struct.unpack of 12 integers"
	UnitPack   = "struct.pack of 12 integers"
)

// Units are in the order in which they are shown.
func Units() []string {
	return []string{UnitEval, UnitTime, UnitGet, UnitSet, UnitHGet, UnitHMGet, UnitHSet, UnitUnpack, UnitPack}
}

// Point is one value of a series.
type Point struct {
	Second float64 `json:"second"` // since the cell began
	Value  float64 `json:"value"`
}

// Latency is in microseconds. In an open loop it counts from the moment at which the request was due.
type Latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
	Mean float64 `json:"mean"`
	Hist string  `json:"hist,omitempty"` // compressed HdrHistogram V2, base64, microseconds
}

// Redis is what Redis was asked per request, over all masters.
type Redis struct {
	Commands float64 `json:"commands_per_req"`
	InBytes  float64 `json:"in_bytes_per_req"`
	OutBytes float64 `json:"out_bytes_per_req"`
	Calls    float64 `json:"calls_per_req"`  // of scripts and functions; Commands has these and what they call
	Errors   float64 `json:"errors_per_req"` // replies that were errors: a key on another master, calls across slots, …
}

// Master is one of a Cluster. Its figures are per request of the row, whichever master served it, so that they add up
// to those of all.
type Master struct {
	Partitions int     `json:"partitions"` // that lie on it
	Share      float64 `json:"share"`      // of the accounts, and so of the requests
	CPU        float64 `json:"cpu_us_per_req"`
	Redis      Redis   `json:"redis"`
}

// Postgres is what a request made it write.
type Postgres struct {
	Inserted float64 `json:"rows_inserted_per_req"`
	Updated  float64 `json:"rows_updated_per_req"`
	WALBytes float64 `json:"wal_bytes_per_req"`
}

// Heap is what the gateway's process allocated per request.
type Heap struct {
	Allocs float64 `json:"allocs_per_req"`
	Bytes  float64 `json:"bytes_per_req"`
}

// Backlog counts ledger records that are in Redis and not yet in Postgres.
type Backlog struct {
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	Max   int64 `json:"max"`
}

// Throughput is requests per second that were answered with 200.
func (r Row) Throughput() float64 {
	if r.Seconds <= 0 {
		return 0
	}
	return float64(r.Requests-r.Failed()) / r.Seconds
}

// Failed counts the answers that were no 200, and the requests that got none.
func (r Row) Failed() int64 {
	sum := int64(0)
	for _, n := range r.Errors {
		sum += n
	}
	return sum
}

// Write puts the run into dir/NAME.json. It is written aside and renamed, so that a bench that is stopped leaves the
// rows of the last finished cell.
func (r *Run) Write(dir string) (string, error) {
	if r.Name == "" || r.Name != filepath.Base(r.Name) {
		return "", fmt.Errorf("the name of a run must be a file name, not %q", r.Name)
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return "", fmt.Errorf("encode run %s: %w", r.Name, err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("make the directory of results: %w", err)
	}
	path := filepath.Join(dir, r.Name+".json")
	aside := path + ".part"
	if err := os.WriteFile(aside, append(text, '\n'), 0o600); err != nil {
		return "", fmt.Errorf("write the results: %w", err)
	}
	if err := os.Rename(aside, path); err != nil {
		return "", fmt.Errorf("put the results in place: %w", err)
	}
	return path, nil
}

// Read reads the file that Write wrote.
func Read(path string) (*Run, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	run := new(Run)
	if err := json.Unmarshal(text, run); err != nil {
		return nil, fmt.Errorf("%s is no result of the bench: %w", path, err)
	}
	if run.Name == "" {
		return nil, errors.New(path + " is no result of the bench: it has no name")
	}
	return run, nil
}
