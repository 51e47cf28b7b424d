package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// tagged are the paths whose answers carry an ETag: what is in force changes seldom, and is large.
func tagged(asked string) bool {
	rest, ok := strings.CutPrefix(asked, prefix+"/")
	if !ok {
		return false
	}
	switch first, _, _ := strings.Cut(rest, "/"); first {
	case "packs", "actions", "triggers", "rules":
		return true
	default:
		return strings.HasPrefix(rest, "openapi")
	}
}

// tellTags documents what serveTagged does.
func tellTags(document *huma.OpenAPI) {
	for path, item := range document.Paths {
		if item.Get == nil || !tagged(prefix+path) || item.Get.Responses["200"].Content["application/json"] == nil {
			continue
		}
		item.Get.Parameters = append(item.Get.Parameters, &huma.Param{
			Name: "If-None-Match", In: "header", Description: "The ETag of an answer that is there already", Schema: &huma.Schema{Type: huma.TypeString},
		})
		item.Get.Responses["200"].Headers = map[string]*huma.Param{"ETag": {
			Description: "Another one where the answer is another", Schema: &huma.Schema{Type: huma.TypeString},
		}}
		item.Get.Responses["304"] = &huma.Response{Description: "It is what If-None-Match names"}
	}
}

// serveTagged gives a good answer its ETag, and leaves out what whoever asks has already.
func serveTagged(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if r.Method != http.MethodGet || !tagged(r.URL.Path) {
		next.ServeHTTP(w, r)
		return
	}
	held := &heldAnswer{ResponseWriter: w}
	next.ServeHTTP(held, r)
	if held.status != http.StatusOK {
		held.release()
		return
	}
	sum := sha256.Sum256(held.body.Bytes())
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:18]) + `"`
	w.Header().Set("ETag", tag)
	// It may be kept by who asked, and is asked for each time: a token may be revoked.
	w.Header().Set("Cache-Control", "private, no-cache")
	if names(r.Header.Values("If-None-Match"), tag) {
		w.Header().Del("Content-Type")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	held.release()
}

// names says whether an If-None-Match names a tag, weakly or not.
func names(values []string, tag string) bool {
	return slices.ContainsFunc(values, func(value string) bool {
		for one := range strings.SplitSeq(value, ",") {
			if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == tag || one == "*" {
				return true
			}
		}
		return false
	})
}

// heldAnswer keeps an answer until it is known whether it is wanted.
type heldAnswer struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (h *heldAnswer) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
}

func (h *heldAnswer) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.body.Write(p)
}

func (h *heldAnswer) release() {
	if h.status != 0 {
		h.ResponseWriter.WriteHeader(h.status)
	}
	// Who has gone away does not read it.
	_, _ = h.ResponseWriter.Write(h.body.Bytes())
}
