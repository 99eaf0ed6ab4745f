module example.invalid/aeterna/sdk/go

go 1.19
