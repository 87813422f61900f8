# The one image of corral: the operator, the workers and the command line.
#
# Any base with Python 3.11 or later and its venv module will do.
ARG BASE_IMAGE=python:3.12-slim

# What corral depends on: changes rarely, takes long.
FROM ${BASE_IMAGE} AS dependencies
RUN python3 -m venv /opt/corral
COPY requirements/runtime.txt /opt/corral/requirements.txt
# The secrets are optional: how this machine reaches its package index. They stay out of the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /opt/corral/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check \
      --only-binary :all: --require-hashes -r /opt/corral/requirements.txt \
 && /opt/corral/bin/pip uninstall --quiet --yes pip setuptools \
 && find /opt/corral -type d -name tests -prune -exec rm -r {} + \
 # Of AWS's services the artifact store uses S3, and what hands out credentials for it.
 && find /opt/corral/lib/python3*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name sts ! -name 'sso*' ! -name signin -exec rm -r {} + \
 && /opt/corral/bin/python -c 'import sysconfig; open(sysconfig.get_path("purelib") + "/corral.pth", "w").write("/opt/corral/app\n")' \
 && printf '%s\n' '#!/opt/corral/bin/python' 'import sys' 'from corral.cli.main import main' \
      'sys.exit(main())' > /opt/corral/bin/corral \
 && chmod 755 /opt/corral/bin/corral \
 # Never compared with their sources again: a start reads them and nothing else.
 && /opt/corral/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/corral/lib

# corral itself: changes often, takes a second, needs no network. Put on top of the dependencies'
# layer rather than beside a copy of it: nothing that is only for building was left in that.
FROM dependencies
COPY pyproject.toml LICENSE /opt/corral/app/
COPY operator/corral /opt/corral/app/corral
# A record of the version and the licence, as an installer would leave it (PEP 376).
RUN ["/opt/corral/bin/python", "-c", "\
import compileall, pathlib, py_compile, tomllib\n\
app = pathlib.Path('/opt/corral/app')\n\
project = tomllib.loads((app / 'pyproject.toml').read_text())['project']\n\
info = app / f\"corral-{project['version']}.dist-info\"\n\
info.mkdir()\n\
(info / 'METADATA').write_text(f\"Metadata-Version: 2.4\\nName: corral\\nVersion: {project['version']}\\nLicense-Expression: {project['license']}\\n\")\n\
(app / 'LICENSE').rename(info / 'LICENSE')\n\
(app / 'pyproject.toml').unlink()\n\
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH\n\
assert compileall.compile_dir(app, quiet=1, invalidation_mode=mode)\n\
"]
ENV PATH=/opt/corral/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2
WORKDIR /tmp
# Nobody's number, so that `runAsNonRoot` can be verified; it owns nothing in the image.
USER 65532:65532
ENTRYPOINT ["corral"]
