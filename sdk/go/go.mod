module aeterna

go 1.19
