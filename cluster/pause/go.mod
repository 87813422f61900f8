module corral/cluster/pause

go 1.24.0
