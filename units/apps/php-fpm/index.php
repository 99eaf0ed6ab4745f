<?php
header('Content-Type: application/json');
printf("{\"pid\":%d,\"generation\":%d}\n", getmypid(), getenv('AETERNA_GENERATION'));
