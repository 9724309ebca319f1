package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"creditgate/meter"
)

// What callers send, and what they are told when it is wrong: which value, what it should be, and an example. A moment
// is always RFC 3339 with its zone. A day alone is refused and not completed, because credit would begin or end at
// another moment than the caller's midnight. Ranges of reports are local days of the policy.

const (
	nameForm  = "must match [A-Za-z0-9._-]{1,64}: letters, digits, dot, underscore and hyphen"
	shownMax  = 60 // bytes of a wrong value that a message repeats
	firstYear = 1970
)

// badName says what an id or a reference may consist of.
func badName(param, value string) *problem {
	detail := param + " " + strconv.Quote(shorten(value)) + " " + nameForm
	if value == "" {
		detail = param + " is empty; it " + nameForm
	}
	return &problem{code: codeInvalid, param: param, detail: detail}
}

func shorten(s string) string {
	if len(s) > shownMax {
		return strings.ToValidUTF8(s[:shownMax], "") + "…"
	}
	return s
}

// readObject reads one JSON object into the struct at into. A name that the struct does not have, or one that is there
// twice, is an error: it would be a wish that is not met.
func readObject(body []byte, into any) *problem {
	d := json.NewDecoder(bytes.NewReader(body))
	open, err := d.Token()
	if err == nil && open != json.Delim('{') {
		return &problem{code: codeInvalid, detail: "the body must be one JSON object, such as {}; it begins with " +
			strconv.Quote(shorten(string(body)))}
	}
	fields, names := bodyFields(into)
	var seen []string
	for err == nil && d.More() {
		var token json.Token
		if token, err = d.Token(); err != nil {
			break
		}
		name, _ := token.(string) // a name is always a string; otherwise Token has failed
		field, known := fields[name]
		if !known {
			return unknownField(name, names)
		}
		if slices.Contains(seen, name) {
			return &problem{code: codeInvalid, param: name, detail: name + " is there twice; send it once"}
		}
		seen = append(seen, name)
		var raw json.RawMessage
		if err = d.Decode(&raw); err == nil {
			if p := readField(name, raw, field); p != nil {
				return p
			}
		}
	}
	if err == nil {
		_, err = d.Token()
	}
	if err != nil {
		why := strings.TrimPrefix(err.Error(), "json: ")
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			why = "it ends too early"
		}
		return &problem{code: codeInvalid, detail: "the body is not valid JSON at byte " +
			strconv.FormatInt(d.InputOffset(), 10) + ": " + why}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &problem{code: codeInvalid, detail: "the body has something after its JSON object; send one object"}
	}
	return nil
}

// bodyFields are the struct's fields by their JSON names, and these names in the order of the struct.
func bodyFields(into any) (map[string]reflect.Value, []string) {
	v := reflect.ValueOf(into).Elem()
	fields, names := map[string]reflect.Value{}, []string(nil)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		fields[name], names = v.Field(i), append(names, name)
	}
	return fields, names
}

func unknownField(name string, known []string) *problem {
	takes := "it takes none"
	if len(known) > 0 {
		takes = "it takes " + strings.Join(known, ", ")
	}
	return &problem{
		code: codeInvalid, param: shorten(name),
		detail: strconv.Quote(shorten(name)) + " is not a field of this route; " + takes,
	}
}

// readField sets one field. null is as if the field were not there, except where the field itself reads null.
func readField(name string, raw json.RawMessage, field reflect.Value) *problem {
	if moment := momentIn(field); moment != nil {
		return readMoment(name, raw, moment)
	}
	if string(raw) == "null" {
		return nil
	}
	if json.Unmarshal(raw, field.Addr().Interface()) == nil {
		return nil
	}
	return &problem{code: codeInvalid, param: name, detail: name + " must be " + formOf(field.Type(), raw) + "; " +
		shorten(string(raw)) + " is not"}
}

// formOf says what JSON a field takes.
func formOf(t reflect.Type, raw json.RawMessage) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[meter.Credits]() {
		return "a number of at most " + meter.MaxCredits.String() +
			" with at most three decimals, without quotes or exponent, such as 3 or 0.25"
	}
	switch t.Kind() {
	case reflect.String:
		return `a text in double quotes, such as "a"`
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return `a list of texts, such as ["a", "b"]`
	case reflect.Uint32:
		return wholeNumber(0, math.MaxUint32, raw)
	default:
		return wholeNumber(math.MinInt64, math.MaxInt64, raw)
	}
}

// wholeNumber names the bounds only to those who passed them.
func wholeNumber(lo, hi int64, raw json.RawMessage) string {
	digits := strings.TrimPrefix(string(raw), "-")
	if strings.Trim(digits, "0123456789") == "" {
		return "a whole number from " + strconv.FormatInt(lo, 10) + " to " + strconv.FormatInt(hi, 10)
	}
	return "a whole number without quotes, point or exponent, such as 2"
}

// momentIn is how a field takes a moment; nil if it takes something else.
func momentIn(field reflect.Value) func(given *time.Time) {
	switch to := field.Addr().Interface().(type) {
	case **time.Time:
		return func(given *time.Time) { *to = given }
	case *givenTime:
		return func(given *time.Time) { to.given, to.at = true, orZero(given) }
	}
	return nil
}

func readMoment(name string, raw json.RawMessage, set func(*time.Time)) *problem {
	if string(raw) == "null" {
		set(nil)
		return nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return badMoment(name, string(raw))
	}
	var at time.Time
	if err := at.UnmarshalText([]byte(text)); err != nil { // stricter than time.Parse
		return badMoment(name, text)
	}
	if at.Year() < firstYear {
		return &problem{code: codeInvalid, param: name, detail: name + " " + text + " lies before " + strconv.Itoa(firstYear)}
	}
	set(&at)
	return nil
}

// badMoment shows how what was sent would be right, where that can be told.
func badMoment(name, text string) *problem {
	p := &problem{code: codeInvalid, param: name}
	const zones = ", or with the offset of another zone, such as +01:00, in place of Z"
	if _, err := time.Parse(time.DateOnly, text); err == nil {
		p.detail = name + " " + text + " is a day, and a time with its zone is needed; write " + text +
			"T00:00:00Z for the beginning of that day in UTC" + zones
		return p
	}
	if _, err := time.Parse("2006-01-02T15:04:05", text); err == nil {
		p.detail = name + " " + text + " has no zone; write " + text + "Z for UTC" + zones
		return p
	}
	p.detail = name + " must be a time with its zone, in quotes, such as \"2026-12-01T00:00:00Z\"" + zones + "; " +
		shorten(text) + " is not"
	return p
}
