// Package apiserver is the HTTP server in front of the registry.
//
//	TLS, HTTP/2 → panic guard → request info → authentication → impersonation
//	  → limit of requests in flight → authorization → deadline
//	      ├→ handlers     resources: get, list, watch, create, update, patch, delete
//	      ├→ connect      logs, exec, port forwarding, proxies: on to the node
//	      ├→ discovery, openapi
//	      └→ health, version, metrics
package apiserver
