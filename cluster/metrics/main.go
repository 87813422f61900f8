// The metrics-server, as its own main runs it: the figures that an HPA goes by.
package main

import (
	"os"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"

	"sigs.k8s.io/metrics-server/cmd/metrics-server/app"
)

func main() {
	command := app.NewMetricsServerCommand(genericapiserver.SetupSignalHandler())
	os.Exit(cli.Run(command))
}
