// Command traces is a trace store for tests and demos: Jaeger's, in memory, behind the
// OpenTelemetry collector's OTLP receiver and Jaeger's own query API (/api/v3/traces/ID).
//
// Its own program rather than jaegertracing/jaeger/cmd/jaeger: that one links every database's and
// queue's client, which takes four times as long to build. The module has a path below Jaeger's so
// that Go lets it import what Jaeger keeps internal, as a module of Jaeger's repository could.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/gorilla/mux"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/jaegertracing/jaeger/cmd/query/app/apiv3"
	"github.com/jaegertracing/jaeger/cmd/query/app/querysvc/v2/querysvc"
	limits "github.com/jaegertracing/jaeger/internal/storage/v1/memory"
	"github.com/jaegertracing/jaeger/internal/storage/v2/memory"
)

// The oldest trace goes when there are more.
const maxTraces = 20_000

// receive takes OTLP over HTTP at an address and gives it to the store.
func receive(ctx context.Context, address string, store *memory.Store) error {
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig().(*otlpreceiver.Config)
	config.GRPC = configoptional.None[configgrpc.ServerConfig]()
	config.HTTP.GetOrInsertDefault().ServerConfig.Endpoint = address
	next, err := consumer.NewTraces(store.WriteTraces)
	if err != nil {
		return err
	}
	settings := receiver.Settings{
		ID:                component.NewID(factory.Type()),
		TelemetrySettings: componenttest.NewNopTelemetrySettings(),
	}
	made, err := factory.CreateTraces(ctx, settings, config, next)
	if err != nil {
		return err
	}
	return made.Start(ctx, componenttest.NewNopHost())
}

// serve answers at both addresses until it is killed.
func serve(otlp, query string) error {
	store, err := memory.NewStore(limits.Configuration{MaxTraces: maxTraces})
	if err != nil {
		return err
	}
	if err := receive(context.Background(), otlp, store); err != nil {
		return err
	}
	router := mux.NewRouter()
	gateway := apiv3.HTTPGateway{
		QueryService: querysvc.NewQueryService(store, store, querysvc.QueryServiceOptions{}),
		Logger:       zap.NewNop(),
		Tracer:       noop.NewTracerProvider(),
	}
	gateway.RegisterRoutes(router)
	server := http.Server{Addr: query, Handler: router, ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServe()
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: traces OTLP-ADDRESS:PORT QUERY-ADDRESS:PORT")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
