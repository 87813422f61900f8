// Command s3 is an S3 server for tests: versitygw's, on a folder.
//
// Its own program rather than versitygw's: that one links every cloud's SDK, takes minutes to
// build, and is configured by a hundred flags.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
)

// serve listens at an address until it is killed. Buckets are subfolders of folder/data; what a
// file can't say of an object is beside it in folder/meta, so that any file system will do.
func serve(address, folder, region, key, secret string) error {
	data, facts := filepath.Join(folder, "data"), filepath.Join(folder, "meta")
	for _, path := range []string{data, facts} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	sidecar, err := meta.NewSideCar(facts)
	if err != nil {
		return err
	}
	store, err := posix.New(data, sidecar, posix.PosixOpts{SideCarDir: facts, NewDirPerm: 0o755})
	if err != nil {
		return err
	}
	defer store.Shutdown()
	root := auth.Account{Access: key, Secret: secret, Role: auth.RoleAdmin}
	users, err := auth.New(&auth.Opts{RootAccount: root})
	if err != nil {
		return err
	}
	server, err := s3api.New(
		store, middlewares.RootUserConfig{Access: key, Secret: secret}, address, region, users,
		nil, nil, nil, nil,
		s3api.WithQuiet(), s3api.WithKeepAlive(), s3api.WithHealth("/healthz"),
	)
	if err != nil {
		return err
	}
	return server.Serve()
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: s3 ADDRESS:PORT FOLDER")
		os.Exit(2)
	}
	key, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	region := os.Getenv("AWS_REGION")
	if key == "" || secret == "" || region == "" {
		fmt.Fprintln(os.Stderr, "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2], region, key, secret); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
