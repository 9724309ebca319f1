package studio

import (
	"encoding/json"
	"errors"

	"github.com/valyala/fasthttp"
)

// reply is an answer before it is delivered.
type reply struct {
	status      int
	contentType string
	body        []byte
}

func jsonReply(status int, v any) reply {
	b, err := json.Marshal(v)
	if err != nil { // only our own structs come here, and they can be written
		return failure(fasthttp.StatusInternalServerError, "internal", "", err.Error())
	}
	return reply{status: status, contentType: "application/json", body: b}
}

// problem is a request that cannot be served, in the words and with the status that the caller gets.
type problem struct {
	status  int
	code    string
	param   string // the field at fault, empty if none is
	message string
}

func (p *problem) Error() string { return p.message }

func invalid(param, message string) *problem {
	return &problem{status: fasthttp.StatusBadRequest, code: "invalid_value", param: param, message: message}
}

func unprocessable(param, code, message string) *problem {
	return &problem{status: fasthttp.StatusUnprocessableEntity, code: code, param: param, message: message}
}

// refusal answers an error; all routes use OpenAI's shape.
func refusal(err error) reply {
	if p := (*problem)(nil); errors.As(err, &p) {
		return failure(p.status, p.code, p.param, p.message)
	}
	return failure(fasthttp.StatusInternalServerError, "internal", "", err.Error())
}

type errorBody struct {
	Error errorDetail `json:"error"`
}

type errorDetail struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    string  `json:"code"`
}

func failure(status int, code, param, message string) reply {
	d := errorDetail{Message: message, Type: "invalid_request_error", Code: code}
	if status >= fasthttp.StatusInternalServerError {
		d.Type = "server_error"
	}
	if param != "" {
		d.Param = &param
	}
	return jsonReply(status, errorBody{Error: d})
}
