package meter

import (
	"context"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/lua"
	"creditgate/meter/redisd"
)

// verbFiles lists each verb's file, and an operation of it with the values that Redis must read back.
func verbFiles() map[verb]struct {
	file string
	op   *op
	want []string
} {
	id := ID{1, 2, 3}
	g := Grant{
		ID: id, Bucket: "promo", Rank: 2, Paid: true, Available: MaxCredits, EffectiveMs: 5, ExpiresMs: Never, CreatedMs: 7,
	}
	rid := ReservationID{Layout: 1, Partition: 1, ID: id}
	type c = struct {
		file string
		op   *op
		want []string
	}
	max53 := "9007199254740991"
	return map[verb]c{
		verbReserve: {
			"reserve", reserveOp(Reserve{ID: rid, Account: "a", Amount: MaxCredits, Lease: 9e9}),
			[]string{max53, "9000", "100000", ""},
		},
		verbCommit: {
			"commit", commitOp(Settle{ID: rid, Account: "a", Amount: 5, Units: 6, Reserved: MaxCredits}, true, false),
			[]string{"5", "6", max53, "0", ""},
		},
		verbRelease: {"release", settleOp(verbRelease, rid, "a"), nil},
		verbExpire:  {"expire", settleOp(verbExpire, rid, "a"), nil},
		verbExtend:  {"extend", settleOp(verbExtend, rid, "").i48(77), []string{"77"}},
		verbGrant: {
			"grant", grantOp(0, GrantChange{Account: "a", Grant: g, CheckedPseq: 3}),
			[]string{"3", "2", "1", "promo", max53, "5", "140737488355327", "7", ""},
		},
		verbRevoke: {
			"revoke", revokeOp(0, Revocation{
				ID: id, Account: "a", Grant: id, Amount: 8, Beyond: BeyondHeld, CheckedPseq: 4,
				Undone: &Reversal{ID: g.ID, Amount: 7, Grant: Grant{Debt: 5}},
			}),
			[]string{"4", string(id[:]), "8", "2", "7", "5", string(g.ID[:]), "", ""},
		},
		verbLapse: {"lapse", newOp(verbLapse, 0, id, "a").uuid(id), []string{string(id[:])}},
		verbMoveExpiry: {
			"move_expiry", moveExpiryOp(0, ExpiryMove{ID: id, Account: "a", Grant: id, ExpiresMs: Never, CheckedPseq: 4}),
			[]string{"4", string(id[:]), "140737488355327", ""},
		},
		verbSuspend: {"suspend", newOp(verbSuspend, 0, id, "a").u32(9).u8(1), []string{"9", "1"}},
		verbRead:    {"read", newOp(verbRead, 0, id, "a").u8(readAccount), []string{"1"}},
		verbLoad:    {"load", newOp(verbLoad, 0, id, "a").u64(7).bytes16([]byte("xyz")), []string{"7", "xyz"}},
		verbLoadKey: {"load_key", newOp(verbLoadKey, 0, id, "").bytes16([]byte("xyz")).keyPart(nil), []string{"xyz"}},
		verbFlushed: {"flushed", newOp(verbFlushed, 0, id, "").u64(1).u64(2).u64(3).u64(4), []string{"1", "2", "3", "4"}},
		verbDrop:    {"drop", newOp(verbDrop, 0, id, "").u8(1).i48(12), nil}, // its first field is a key number, added by call
		verbTick:    {"tick", newOp(verbTick, 0, id, ""), nil},
		verbReverse: {
			"reverse", reverseOp(0, Reversal{ID: id, Account: "a", Grant: g, Amount: 8, CheckedPseq: 4}),
			[]string{"4", string(id[:]), "8", "0", "2", "1", "promo", "5", "140737488355327", "7", ""},
		},
	}
}

// TestVerbHeaders holds each verb file's header, its body and the Go that calls it together: the OP line's number
// and format are the ones in the body, the assembled scripts contain the file, and Redis reads from what Go encodes
// with that format exactly the values that went in.
func TestVerbHeaders(t *testing.T) {
	t.Parallel()
	client, err := NewRedis(redisd.Test(t).URL())
	require.NoError(t, err)
	defer client.Close()
	library, err := lua.Load()
	require.NoError(t, err)
	opLine := regexp.MustCompile(`(?m)^OP +(\d+) '([^']*)'`)
	for v, c := range verbFiles() {
		source, err := lua.Source("verbs/" + c.file + ".lua")
		require.NoError(t, err)
		header := opLine.FindStringSubmatch(source)
		require.NotNil(t, header, c.file)
		require.Equal(t, strconv.Itoa(int(v)), header[1], c.file)
		require.Equal(t, strings.ReplaceAll(c.file, "_", " "), strings.ReplaceAll(v.String(), "_", " "))
		require.Contains(t, source, "verbs["+header[1]+"] = function", c.file)
		for _, word := range []string{"REPLY", "COST"} {
			require.Contains(t, source, "\n"+word, c.file)
		}
		require.Equal(t, 1, strings.Count(library.Source, source), "%s must be in the library", c.file)
		if header[2] == "" {
			require.Empty(t, c.op.payload, c.file)
			continue
		}
		require.Contains(t, source, "'"+header[2]+"'", "%s: the body must use the header's format", c.file)
		if c.want == nil {
			continue
		}
		got, err := client.Eval(context.Background(), `local out = {struct.unpack(ARGV[1], ARGV[2])}
out[#out] = nil
for i, v in ipairs(out) do
	out[i] = type(v) == 'number' and string.format('%.0f', v) or v
end
return out`, nil, header[2], c.op.payload).StringSlice()
		require.NoError(t, err, c.file)
		require.Equal(t, c.want, got, c.file)
	}
}

// TestConstants compares lib/codes.lua with Go.
func TestConstants(t *testing.T) {
	t.Parallel()
	source, err := lua.Source("lib/codes.lua")
	require.NoError(t, err)
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^local ([A-Z_]+) = (\d+)$`).FindAllStringSubmatch(source, -1) {
		got[m[1]] = m[2]
	}
	want := map[string]int64{
		"OK": int64(CodeOK), "INSUFFICIENT": int64(CodeInsufficient), "SUSPENDED": int64(CodeSuspended),
		"IN_FLIGHT": int64(CodeInFlight), "KEY_IN_PROGRESS": int64(CodeKeyInProgress), "KEY_REPLAY": int64(CodeKeyReplay),
		"KEY_MISMATCH": int64(CodeKeyMismatch), "CONFLICT": int64(CodeConflict), "NOT_LOADED": int64(CodeNotLoaded),
		"UNKNOWN": int64(CodeUnknown), "ASK_LEDGER": int64(CodeAskLedger), "STALE": int64(CodeStale),
		"TOO_MANY_GRANTS": int64(CodeTooManyGrants), "RECHECK": int64(CodeRecheck), "GONE": int64(CodeGone),
		"NOT_DUE": int64(CodeNotDue), "BUSY": int64(CodeBusy), "FENCED": int64(CodeFenced), "EPOCH": int64(CodeEpoch),
		"REGRESSED": int64(CodeRegressed), "CLOSED": int64(CodeClosed), "TORN": int64(CodeTorn), "CLOCK": int64(CodeClock),
		"HELD": int64(Held), "COMMITTED": int64(Committed), "RELEASED": int64(Released), "EXPIRED": int64(Expired),
		"LATE": int64(Late), "UNCOLLECTED": int64(Uncollected),
		"KIND_GRANT": int64(KindGrant), "KIND_COMMIT": int64(KindCommit), "KIND_RELEASE": int64(KindRelease),
		"KIND_EXPIRE": int64(KindExpire), "KIND_LATE": int64(KindLate), "KIND_UNCOLLECTED": int64(KindUncollected),
		"KIND_LAPSE": int64(KindLapse), "KIND_REVOKE": int64(KindRevoke), "KIND_ADJUST": int64(KindAdjust),
		"BEYOND_NOTHING": int64(BeyondNothing), "BEYOND_HELD": int64(BeyondHeld), "GRANTS_MAX": GrantsMax,
		"RANK_MAX": math.MaxUint8, "APPLIED_MAX": appliedMax, "AMOUNT_MAX": int64(MaxCredits), "NEVER": Never,
		"CLOCK_SKEW_MAX_MS": 60_000, "DONE_SLOT_MS": doneSlotMs, "DONE_KEEP_MS": 15 * 60 * 1000, "KEY_KEEP_MS": keySlotMs,
		"SLOT_NOTE_MS": SlotNoteMs, "BRIEF": verbBrief, "BRIEF_SIZE": briefSize,
		"UNLIMITED": grantUnlimited, "STOPS": grantStops, "FAIR": accountFair, "MOVED": callMoved,
	}
	for name, v := range want {
		require.Equal(t, strconv.FormatInt(v, 10), got[name], name)
	}
	require.Len(t, got, len(want))
}
